"""The status page: what it shows is read from the views (read.py), drawn (chart.py) and written as HTML (render.py)."""
