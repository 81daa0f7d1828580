// Package watcher follows the containers of a host. A [Watcher] asks an [engine.Engine], Docker or
// Podman, which containers run, and has its configuration, usually grammar.Rules, say what of each
// is registered. It registers nothing itself: the result is a [View].
package watcher
