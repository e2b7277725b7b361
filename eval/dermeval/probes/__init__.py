"""kNN and linear probes on frozen features, by patient."""
