"""The life cycle of domains: definition, record, the running domain, and the supervisor left behind."""
