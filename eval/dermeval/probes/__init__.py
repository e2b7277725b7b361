"""Probes judge an encoder by what a simple classifier learns from its features. In reading order:

- `task` (labelled images), `folds` (which are fitted, which scored), `predictions`, `judge` (fit and score a probe).
- The probes: `knn`; `linear`, which chooses from `grids` of classifiers (`logistic`, `sgd`); `finetune`.
- Further scores: `shots` (few labels), `groups` (skin type, sex, age, centre), `contamination` (seen in pretraining).
- Reports: `report` (what all share), `probe_report` (one probe), `kept` (the finished fits of a killed command).
- Several results: `protocols`, `evaluate` with `evaluate_page`, `encoder_table`, `compare` with `open_results`.
"""
