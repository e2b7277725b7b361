"""The command ``dermeval``: judges and uses encoders. Heavy modules are imported only where needed."""

from collections.abc import Sequence

from dermssl import commandline
from dermssl.commandline import Command

COMMANDS = (
    Command(
        "embed",
        "encoder + dataset folder -> embeddings folder",
        "dermeval.features.options:EmbedOptions",
        "dermeval.features.embed:embed",
        writes="out",
    ),
    Command(
        "import-embeddings",
        "features made by another program -> embeddings folder",
        "dermeval.features.options:ImportOptions",
        "dermeval.features.import_embeddings:import_embeddings",
        writes="out",
    ),
    Command(
        "knn",
        "weighted kNN on frozen features, by patient",
        "dermeval.probes.options:KnnOptions",
        "dermeval.probes.knn:knn",
        writes="out",
    ),
    Command(
        "linear",
        "logistic regression on frozen features, by patient",
        "dermeval.probes.options:LinearOptions",
        "dermeval.probes.linear:linear",
        writes="out",
    ),
    Command(
        "finetune",
        "the encoder trained on a target, judged by patient",
        "dermeval.probes.options:FinetuneOptions",
        "dermeval.probes.finetune:finetune",
        writes="out",
    ),
    Command(
        "evaluate",
        "a data set's published protocol, with per-group tables",
        "dermeval.probes.options:EvaluateOptions",
        "dermeval.probes.evaluate:evaluate",
        writes="out",
    ),
    Command(
        "compare",
        "encoders side by side, with paired differences",
        "dermeval.probes.options:CompareOptions",
        "dermeval.probes.compare:compare",
        writes="out",
    ),
    Command(
        "index",
        "embeddings folder -> search index",
        "dermeval.retrieval.options:IndexOptions",
        "dermeval.retrieval.index:index",
        writes="out",
    ),
    Command(
        "search",
        "similar cases of an image, as a table and a contact sheet",
        "dermeval.retrieval.options:SearchOptions",
        "dermeval.retrieval.search:search",
    ),
    Command(
        "retrieval",
        "retrieval judged: recall, precision, mAP, nDCG, by group",
        "dermeval.retrieval.options:RetrievalOptions",
        "dermeval.retrieval.retrieval:retrieval",
    ),
    Command(
        "export",
        "embeddings as embedding-atlas, FiftyOne, LanceDB or TensorBoard opens them",
        "dermeval.retrieval.options:EmbeddingsExportOptions",
        "dermeval.retrieval.export:export",
        writes="out",
    ),
    Command(
        "serve",
        "similar-case search in the browser, with a JSON API, on this machine",
        "dermeval.web.options:ServeOptions",
        "dermeval.web.serve:serve",
    ),
    Command(
        "leaks",
        "records that share near-duplicate images, and a repaired split",
        "dermeval.leaks.options:LeaksOptions",
        "dermeval.leaks.leaks:leaks",
        writes="out",
    ),
    Command(
        "audit",
        "near-duplicates, off-topic images and label errors, on one page",
        "dermeval.leaks.options:AuditOptions",
        "dermeval.leaks.audit:audit",
        writes="out",
    ),
    Command(
        "review",
        "decide about the pairs of an audit in the browser, one key each",
        "dermeval.leaks.options:ReviewOptions",
        "dermeval.web.review:review",
    ),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``dermeval``; returns the exit code."""
    return commandline.main("dermeval", "Judge and use encoders of skin images.", COMMANDS, argv)
