"""One module for each question; each has ``run(running, quick=…)`` and answers with rows of the table."""
