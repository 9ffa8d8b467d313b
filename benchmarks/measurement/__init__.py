"""What every benchmark does around its own measurement: names the machine, watches memory, prints its bars."""
