"""Report: report.json, report.html and their plots."""
