"""The main job, `python -m pure_batchops`.

mislabelled.py   the job: flips labels, trains, ranks the digits
digits.py        the data, and the picture
shown.py         progress, and the table
options.py       the command line
"""
