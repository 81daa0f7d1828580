// Package registrylab tests clusters in one process whose registry fails: each fault over each
// provider, by proxies before a real server, and what an idle or returning cluster asks of it. It
// holds tests alone.
package registrylab
