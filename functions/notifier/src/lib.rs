//! **notifier**: a notification reaches its subscriber.
