//! What the functions start with on AWS Lambda: settings from the environment, clients, log lines, metrics, and events as the handlers want them.
