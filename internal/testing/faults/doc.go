// Package faults attacks real clusters: processes on hosts of their own (package
// netlab) over real servers, with faults of the network, of processes, of stores, of
// disks and of clocks, while every master writes to a fenced register. What all of
// them recorded is then checked (package checker).
//
//	make faults                              # the catalogue, on every provider
//	make faults CASE=one-way PROVIDER=etcd   # one case
//	make faults SEED=7                       # other choices of victims and times
//	make faults-short                        # what plain go test runs
//	make soak DURATION=20m SEED=1 PROVIDER=consul
//
// A case is named, and what is random in it comes from the seed: the same case, seed
// and provider do the same things to the same hosts. When they happen is up to the
// machine as well, within milliseconds. Where a case fails, what every process
// recorded is kept, and the test says where.
//
// docs/reliability.md has the faults, the figures and what is not attacked.
package faults
