"""The tables and plots of a dataset folder."""
