"""What is said under the figures of the chosen model’s code and of its pictures, and in their place. No markup."""

from pipeline.report.tables import LatentMap, LatentUse, Reconstructions, Samples, Strips
from pipeline.report.words import Words, count, number

MOST_BARS = 40
METHODS = {"pca": "principal components", "tsne": "t-SNE, where distances between groups mean little"}


def reconstructions(table: Reconstructions) -> Words:
    """Says what to compare."""
    anomalies = int(table.is_anomaly_N.sum())
    normal = count(len(table.is_anomaly_N) - anomalies, "normal test example")
    how = (
        "For each example the features that the model misses by most on average, the worst on top."
        if table.feature_names
        else "Each input above its reconstruction, with the squared error under both."
    )
    caption = f"{how} The model was trained on normal examples only, so anomalies should come out worse."
    return Words(caption, f"Inputs and reconstructions: {normal} and {count(anomalies, 'anomaly', 'anomalies')}.")


def samples(table: Samples) -> Words:
    """Says what they are."""
    return Words(
        "Draws of z from the prior, decoded. All alike would mean that the decoder ignores z.",
        f"{count(len(table.images), 'image')} decoded from draws of the prior.",
    )


def latent_map(table: LatentMap) -> Words:
    """Says what was laid flat, and how."""
    how = METHODS.get(table.method, "laid flat")
    how = "a single latent dimension" if table.on_a_line else how
    anomalies = int(table.points["anomaly"].sum())
    parts = [f"Codes of the test examples, the means where they are distributions ({how})."]
    if table.labels:
        parts.append("A row a label." if table.on_a_line else "A label stands at the middle of its examples.")
    if anomalies:
        parts.append("Crosses are anomalies, which training never saw.")
    if table.left_out:
        parts.append(f"{count(table.left_out, 'example')} without a finite place left out.")
    kinds = f" of {count(len(table.labels), 'label')}" * bool(table.labels)
    normal = count(len(table.points) - anomalies, "normal test example")
    alt = f"Scatter plot of the code: {normal}{kinds} and {count(anomalies, 'anomaly', 'anomalies')}."
    return Words(" ".join(parts), alt)


def latent_use(table: LatentUse) -> Words:
    """Says how many dimensions do something."""
    size, total = len(table.kl_nats_R), float(table.kl_nats_R.sum())
    parts = [f"Averages over the test’s normal examples; together {number(total)} nats."]
    if table.is_active_R is not None:
        parts.append(
            f"{int(table.is_active_R.sum())} of {size} {'is' if size == 1 else 'are'} active (dark): the variance of "
            "the posterior mean is above 0.01."
        )
        if not table.is_active_R.all():
            parts.append("The others say nothing of the example.")
    if size > MOST_BARS:
        parts.append(f"The {MOST_BARS} dearest are drawn.")
    dearest = f"dimension {table.dimension_R[0]} with {number(float(table.kl_nats_R[0]))} nats"
    return Words(" ".join(parts), f"Bars of the KL of {count(size, 'latent dimension')}; the dearest is {dearest}.")


def traversals(table: Strips) -> Words:
    """Says what moves."""
    caption = (
        "One test example, decoded with one latent dimension at a time moved over the range that the examples have in "
        "it. Dimensions whose means vary most come first; a row that stays the same is one that the decoder ignores."
    )
    return Words(caption, f"Grid of images: {count(len(table.images), 'latent dimension')} moved in turn.")


def interpolations(table: Strips) -> Words:
    """Says what the ends are."""
    caption = (
        "Each row is a straight line through the code, from one test example (left) to another (right), as decoded. "
        "Steps that look like no example mean holes in the code."
    )
    return Words(caption, f"Grid of images: {count(len(table.images), 'walk')} between two test examples each.")
