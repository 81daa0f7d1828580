// Package faultproxy puts a proxy that can break what passes between a client and a real
// server, for tests.
//
// [TCP] passes bytes on and knows nothing of what they mean: it cuts, swallows,
// delays, throttles, resets and garbles. [HTTP] knows requests, also those of gRPC:
// it counts them, lets some of them fail, and loses the answer to one that was
// carried out. Each stands before the other, or before the server:
//
//	requests := faultproxy.NewHTTP(t, server.Addr())
//	proxy := faultproxy.NewTCP(t, requests.Addr())
//	// ... a client of proxy.Addr() ...
//	lost := proxy.Swallow(faultproxy.Answers)
//	err := lost.Wait(ctx, 1) // an answer was swallowed
//	proxy.Restore()
//
// A fault lasts until Restore, and says what it has hit in its [Hits], so that a
// test need not sleep. Chance comes from a seed.
//
// The proxies end with their test, which they fail where they cannot go on.
package faultproxy
