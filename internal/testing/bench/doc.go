// Package bench measures what a node costs, and how fast news travels, in clusters of real nodes
// in several processes, with memberlist over UDP beside them. It has no code outside its tests:
//
//	make bench BENCH=Cluster PKG=./internal/testing/bench BENCHTIME=1x
package bench
