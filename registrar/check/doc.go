// Package check runs the health checks of services that are no containers, so that they
// are registered while they pass.
//
// A [declared.Service] is what a configuration says of one. [Run] checks a number of them, each on
// a timer of its own, and yields which are to be registered. One that has no check always
// is. One that has is registered once its check has passed as often in a row as Rise
// says, and withdrawn once it has failed as often as Fall says.
//
// A check is an HTTP request that wants a status of the 2xx, a TCP connection, the health
// protocol of gRPC, or a program that ends with status 0. Each attempt is bounded by the
// timeout, whatever is at the other end; what it says when it fails is kept, shortened to
// a line.
package check
