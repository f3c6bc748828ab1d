"""Several arms of one experiment, several seeds of each: trained, measured, drawn, reported.

An arm is a config with some keys changed; a run is an arm with a seed. The folder of a comparison:

    norm=layer/seed-0/      the folder of a run, as train.py leaves it, with `outcome.json`
    results.json            everything that the files below are made of
    table.md  figure.svg  figure.png  report.html

`arms` reads what is asked for, `together` trains the seeds of an arm under one vmap, `results` is
the record, `measures` what follows from it.
"""
