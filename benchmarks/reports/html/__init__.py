"""The report as one self-contained HTML page: charts as SVG, pictures as PNG, style and script inline."""
