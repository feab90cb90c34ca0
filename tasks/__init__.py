"""SeqIO tasks over token records: sources, crops, registry, and the stream that training reads.

Importing this package imports neither TensorFlow nor SeqIO; its modules do.
"""
