// Package static finds peers in a list: in the configuration, in a file, in DNS.
// It also grants mastership, by Raft among the voters of the list, and needs no
// other system for it.
//
// Importing it registers the provider "static". README.md says how it is
// configured and how it behaves in failure, DESIGN.md why a grant is exclusive.
//
// A list knows addresses and nothing else: the instances it yields have a Service
// and an Addr, and they are the instances of whatever service is asked for.
// Nothing can be registered in it.
package static
