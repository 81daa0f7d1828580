package call

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// jsonMethod is the method of each service that Handle registers. What it is given, and returns, is
// JSON in a google.protobuf.BytesValue: any server of gRPC, and any client, can carry that.
const jsonMethod = "JSON"

// Handle registers fn as the handler of a method, without generated code: what Invoke is given and
// returns travels as JSON. The name is one like "orders.Reindex", and is that of a service of its
// own, whose method is called JSON. Handle panics where there is a service of that name already,
// and if the name is empty or has a slash or a space.
//
// An error of fn is that of the call: one made with package status of gRPC keeps its code and its
// details, and of any other the text remains.
func Handle[Q, A any](r grpc.ServiceRegistrar, name string, fn func(context.Context, Q) (A, error)) {
	if name == "" || strings.ContainsAny(name, "/ ") {
		panic(fmt.Sprintf("call: Handle %q: want a name without slashes and spaces", name))
	}
	serve := func(ctx context.Context, in *wrapperspb.BytesValue) (*wrapperspb.BytesValue, error) {
		var q Q
		if err := json.Unmarshal(in.GetValue(), &q); err != nil {
			return nil, status.Errorf(codes.InvalidArgument, "%s: %v", name, err)
		}
		a, err := fn(ctx, q)
		if err != nil {
			return nil, err
		}
		out, err := json.Marshal(a)
		if err != nil {
			return nil, status.Errorf(codes.Internal, "%s: %v", name, err)
		}
		return wrapperspb.Bytes(out), nil
	}
	r.RegisterService(&grpc.ServiceDesc{
		ServiceName: name,
		HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{
			MethodName: jsonMethod,
			Handler: func(service any, ctx context.Context, decode func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
				in := new(wrapperspb.BytesValue)
				if err := decode(in); err != nil {
					return nil, err
				}
				if interceptor == nil {
					return serve(ctx, in)
				}
				info := &grpc.UnaryServerInfo{Server: service, FullMethod: fullMethod(name)}
				return interceptor(ctx, in, info, func(ctx context.Context, in any) (any, error) {
					return serve(ctx, in.(*wrapperspb.BytesValue))
				})
			},
		}},
	}, nil)
}

func fullMethod(name string) string { return "/" + name + "/" + jsonMethod }

// Invoke calls a handler that Handle has registered under that name, at c, which is Mesh.Node,
// Mesh.Master or the like, and waits for the answer.
//
//	total, err := call.Invoke[int](ctx, mesh.Master(), "orders.Count", Filter{Open: true})
func Invoke[A, Q any](ctx context.Context, c grpc.ClientConnInterface, name string, q Q, options ...grpc.CallOption) (A, error) {
	var a A
	in, err := json.Marshal(q)
	if err != nil {
		return a, fmt.Errorf("call: %s: %w", name, err)
	}
	out := new(wrapperspb.BytesValue)
	if err := c.Invoke(ctx, fullMethod(name), wrapperspb.Bytes(in), out, options...); err != nil {
		return a, err
	}
	if err := json.Unmarshal(out.GetValue(), &a); err != nil {
		return a, fmt.Errorf("call: %s: the answer: %w", name, err)
	}
	return a, nil
}
