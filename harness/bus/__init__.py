"""XenBus: how frontends and backends find each other and connect through XenStore."""
