"""Draws what was measured. Of `quire compare`: plots, a terminal table and a page that stands alone.

    results         the rows of compare.json
    plots           their figures
    table           rows for a terminal
    page            report.html
    workload_plots  figures of the benchmarks' workloads
    style           what figures share, as PNG files and as SVG that takes the page's colours
"""
