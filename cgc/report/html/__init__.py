"""The report as one self-contained HTML file: no network, no script needed to read its tables and heatmaps."""
