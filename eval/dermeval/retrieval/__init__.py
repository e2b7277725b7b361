"""Similar-case search: index, search, contact sheet, retrieval metrics."""
