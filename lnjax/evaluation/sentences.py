"""Evaluates any sentence encoder as skip-thoughts was (Kiros et al. 2015; the paper, 6.3).

    sets = lnjax.data.sentence_sets.load("real", folder)
    evaluate_encoder(encode, ["sick", "mr", "cr"], data=sets)

The encoder is not trained further: its vectors are the features of logistic regressions, of pairs
on SICK (`relatedness`) and of single sentences on MR, CR, SUBJ, MPQA (`classification`).
"""

from collections.abc import Callable, Iterable

import numpy as np

from lnjax.data.sentence_sets import ClassSet, PairSet, SentenceSets
from lnjax.evaluation import classification, relatedness

Encode = Callable[[list[str]], np.ndarray]  # N sentences -> (N, D)

PROTOCOLS = ("paper", "senteval", "quick")


def evaluate_encoder(
    encode: Encode,
    names: Iterable[str],
    *,
    protocol: str = "paper",
    data: SentenceSets,
    encode_pairs: Encode | None = None,
) -> dict[str, float]:
    """Figures of an encoder on some sets.

    Args:
        encode: gives a vector to each of a list of sentences, an array (N, D) of anything that
            NumPy takes; the same sentence should give the same vector.
        names: of sets in `data`.
        protocol: "paper", as the public code of skip-thoughts does it; "senteval", as SentEval
            (Conneau and Kiela 2018) does; "quick", as "paper" but with a twentieth of the fits of
            classifiers, for use during training. `relatedness.PROTOCOLS` and
            `classification.PROTOCOLS` say exactly what each does.
        data: sets by name, see `lnjax.data.sentence_sets.load`.
        encode_pairs: the encoder for sets of pairs, where it is another one: skip-thoughts end a
            sentence with the end mark there, and only there.

    Returns: for a set of pairs "<name>/pearson", "<name>/spearman" and "<name>/mse", on its test
        part; for one of classes "<name>/accuracy", from 0 to 1, the mean over the folds.
    Raises: ValueError for an unknown protocol or name, or if the encoder returns anything but one
        finite vector for each sentence; nothing is encoded before names were checked.
    """
    names = list(names)
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol={protocol!r} is not known; choose one of {PROTOCOLS}")
    for name in names:
        if name not in data:
            raise ValueError(f"there is no set {name!r} of sentences; known: {sorted(data)}")
    figures = {}
    for name in names:
        found = data[name]
        if isinstance(found, PairSet):
            of_set = evaluate_pairs(encode_pairs or encode, found, protocol=protocol)
        else:
            of_set = {"accuracy": evaluate_classes(encode, found, protocol=protocol)}
        figures |= {f"{name}/{key}": value for key, value in of_set.items()}
    return figures


def evaluate_pairs(encode: Encode, pairs: PairSet, *, protocol: str = "paper") -> dict[str, float]:
    """Fits the relatedness of pairs; returns `pearson`, `spearman` and `mse` on the test part.

    Raises: ValueError as `evaluate_encoder`.
    """
    parts = [
        relatedness.pair_features(vectors(encode, part.first), vectors(encode, part.second))
        for part in pairs
    ]
    model = relatedness.fit(
        *(parts[0], pairs.train.scores, parts[1], pairs.trial.scores),
        protocol=relatedness.PROTOCOLS[protocol],
    )
    predicted = relatedness.predict(model, parts[2])
    return relatedness.agreement(predicted, pairs.test.scores)


def evaluate_classes(encode: Encode, classes: ClassSet, *, protocol: str = "paper") -> float:
    """The mean accuracy over the folds of a nested cross-validation.

    Raises: ValueError as `evaluate_encoder`.
    """
    rule = classification.PROTOCOLS[protocol]
    order = rule.order(classes.sentences, classes.labels)
    features = vectors(encode, [classes.sentences[i] for i in order])
    return float(np.mean(classification.fold_accuracies(features, classes.labels[order], rule)))


def vectors(encode: Encode, sentences: list[str]) -> np.ndarray:
    """The vectors of some sentences, (N, D) float32, checked.

    Raises: ValueError if they are not one finite vector for each sentence.
    """
    found = np.asarray(encode(sentences), np.float32)
    if found.ndim != 2 or len(found) != len(sentences):
        raise ValueError(
            f"the encoder returned an array of the shape {found.shape} for {len(sentences)} "
            "sentences; expected one row for each"
        )
    bad = ~np.isfinite(found).all(axis=1)
    if bad.any():
        place = int(bad.argmax())
        raise ValueError(
            f"the encoder returned {int(bad.sum())} vectors that are not finite, the first for "
            f"sentence {place}: {sentences[place]!r}"
        )
    return found
