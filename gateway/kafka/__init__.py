"""Kafka: the only folder that knows aiokafka. Reading topics live, reading them again, and looking up offsets."""
