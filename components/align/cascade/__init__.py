"""The MTCNN cascade, written for throughput.

It is that of Zhang et al., "Joint face detection and alignment using multitask cascaded convolutional networks", IEEE
Signal Processing Letters, 2016. The weights are those of the ``mtcnn`` 1.0.0 package, and its
arithmetic is followed wherever the agreement of the faces found hangs on it; the modules say where. What differs is the
order of the work: the pyramid of an image is one sparse matrix product and one resize a level, and everything after the
first network runs on the candidates of many images at once, without a Python loop over candidates.
"""
