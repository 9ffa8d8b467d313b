"""The contracts that every stage shares: records, shards, manifests, ledgers, geometry, images and reports."""
