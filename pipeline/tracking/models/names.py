"""How models lie in MLflow: names of tags and files."""

# Of a logged model: which run and name it is of, what its numbers are, and whether another one took its place.
STUDY_RUN, NAME, CONTENT, PLACE = "vae_study.study_run", "vae_study.model", "vae_study.content", "vae_study.place"
CURRENT, SUPERSEDED = "current", "superseded"
# Of a version in the registry: which logged model it is.
MODEL_ID = "vae_study.model_id"
# Of a registered model: what was crowned last, by which records.
CROWNED = "vae_study.crowned"
# Where the UI looks for the versions of a logged model.
VERSIONS = "mlflow.modelVersions"

CHAMPION, ENSEMBLE = "champion", "ensemble"
# The ensembles that `ensemble` may stand for, the first that there is.
ENSEMBLES = ("ensemble_labels", "ensemble_best")
# A packed detector's files in the model's folder, and the row to try a served model with.
DETECTOR, EXAMPLE = "data/detector", "serving_input_example.json"
