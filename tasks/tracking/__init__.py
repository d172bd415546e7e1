"""MLflow: what every stage logs, also where its server is down for a while."""
