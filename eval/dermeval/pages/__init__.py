"""One page design for every report, and its plots."""
