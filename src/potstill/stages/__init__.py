"""One file a stage: typed settings and records in, one record out, made once for the same inputs."""
