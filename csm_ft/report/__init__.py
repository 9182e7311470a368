"""One static page per sweep, made from the files of its folder: results, samples, curves.

page.py makes it: data.py reads the runs, listen.py lines up the samples, charts.py draws. spoken.py
makes the page of a folder of samples.
"""
