"""Metrics, the patient bootstrap and paired comparison."""
