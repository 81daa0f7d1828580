// Package everywhere runs a function on all nodes of a cluster when one of them calls it, as
// @Clusterable does in Liferay: here first, and then, if that went well, on the others.
package everywhere

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc"

	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/call"
)

// Func returns fn as a function that runs on all nodes. Call it on each node, with the same name,
// before mesh.Start. The error names each node on which fn has failed, or perhaps did not run.
func Func[Q any](n *node.Node, mesh *call.Mesh, name string, fn func(context.Context, Q) error) func(context.Context, Q) error {
	type nothing struct{}
	call.Handle(mesh, name, func(ctx context.Context, q Q) (nothing, error) { return nothing{}, fn(ctx, q) })
	return func(ctx context.Context, q Q) (err error) {
		for r := range call.Each(ctx, mesh, n.Members(), func(ctx context.Context, c grpc.ClientConnInterface) (nothing, error) {
			return call.Invoke[nothing](ctx, c, name, q)
		}, call.LocalFirst()) {
			if r.Err != nil {
				err = errors.Join(err, fmt.Errorf("%s: %w", r.From.NodeID, r.Err))
			}
		}
		return err
	}
}
