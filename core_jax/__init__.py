"""The ground floor of tenfold: meshes, drivers, checkpoints, evaluation. It knows no paper."""
