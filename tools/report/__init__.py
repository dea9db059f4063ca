"""Draws what `quire compare` measured: plots, a terminal table and a page that stands alone.

    results   the rows of compare.json
    plots     figures, as PNG files and as SVG that takes the page's colours
    table     rows for a terminal
    page      report.html
"""
