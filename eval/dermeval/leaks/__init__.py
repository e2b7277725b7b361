"""Leak audit: records that share near-duplicate images, within and across splits and data sets."""
