"""The report: sections, tables and figures of one HTML page."""
