"""Read and check a study file: `loading.load_config` returns a frozen StudyConfig, complete with defaults."""
