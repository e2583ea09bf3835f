"""Load tests: what a delivery costs, what a connection weighs, beside a floor and the usual design in the same run."""
