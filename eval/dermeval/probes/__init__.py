"""Probes: what a simple classifier makes of an encoder's features. In reading order:

- `task` (labelled images), `folds` (who is fitted, who is scored), `predictions`, `judge` (fits a probe and scores it).
- The probes: `knn`; `linear`, which chooses from `grids` of classifiers (`logistic`, `sgd`); `finetune`.
- Beside a score: `shots` (few labels), `groups` (skin type, sex, age, centre), `contamination` (seen in pretraining).
- What is written and printed: `probe_report` (of a probe), `report` (what all have), `kept` (fits of a killed command).
- Over several: `protocols`, `evaluate` and its page, `encoder_table`, and `compare` with `open_results`.
"""
