"""Names of the files in a run directory, and of those beside several runs."""

RECIPE = "recipe.json"
STATUS = "status.json"
ENVIRONMENT = "environment.json"
GLOSSARY = "glossary.json"
HISTORY = "history.csv"
MEASUREMENTS = "measurements.csv"
DEPTH = "depth.json"
OBJECTIVE = "objective.json"
CHECKPOINT = "checkpoint.safetensors"
RECORDING = "recording.json"
REPORT = "report.html"
COMPARISON = "compare.html"

MANIFEST = "manifest.json"
FIGURES = "figures"
PREVIOUS = "previous"
DAMAGED = "damaged"
SAMPLES = "samples.safetensors"

# Of a diagnosis, in a folder of its own.
LAYERS = "layers.csv"
LAYERS_PAGE = "layers.html"
CLASSES = "classes.csv"
PAIRS = "pairs.csv"

# Of a feature store.
FEATURES = "features.json"

# While somebody writes.
LOCK = ".lock"

SWEEP = "sweep.json"
CLAIMS = "claims.json"

# Every file of a run itself; pages and figures are made from them.
OF_A_RUN = (RECIPE, ENVIRONMENT, GLOSSARY, HISTORY, MEASUREMENTS, DEPTH, OBJECTIVE, SAMPLES, RECORDING, CHECKPOINT, STATUS)
