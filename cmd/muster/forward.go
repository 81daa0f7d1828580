package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/musterhq/muster/node/httpapi"
)

func newForwardCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "forward",
		Short: "Forward a local port to members of the cluster",
		Long:  `Forward a local port to members of the cluster, by an agent.`,
	}
	cmd.AddCommand(newForwardCallCommand())
	return cmd
}

func newForwardCallCommand() *cobra.Command {
	flags := askFlags{service: agentService}
	var public bool
	cmd := &cobra.Command{
		Use:   "call LISTEN NODE|master",
		Short: "Listen for plain gRPC, and have an agent make the calls",
		Long: `Listen for plain gRPC at LISTEN, HOST:PORT on this host, and have the agent that is asked make the
calls: to the node of that id, or to the master, wherever that is at the moment. This is for tools
such as grpcurl, and for programs in any language. It goes on until it is interrupted.

A call to the master that provably has not run goes on to the next one, until its deadline. A call
without a deadline waits for a master without end. If a call has no answer, and no error of the
handler, its trailer says why in muster-result, and in muster-may-have-run whether it may have run.

Everyone who can reach LISTEN can call, without a token. So it has to be of loopback, unless
--public is given.`,
		Example: `  muster forward call 127.0.0.1:9000 master
  grpcurl -plaintext -d '{"open": true}' -proto orders.proto 127.0.0.1:9000 orders.v1.Orders/Count
  muster forward call 127.0.0.1:9000 orders-2 --agent https://10.0.0.5:7980 --ca-file ca.pem --token-file token`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkForwardListen(args[0], public); err != nil {
				return usageError(err)
			}
			if args[1] == "" || args[1] == httpapi.CallAll {
				return usageError(fmt.Errorf("NODE: %q: not what can be called; write master, or the id of a node", args[1]))
			}
			agent, err := flags.agent()
			if err != nil {
				return err
			}
			return forwardCalls(cmd, agent, args[0], args[1])
		},
	}
	cmd.Flags().BoolVar(&public, "public", false, "permit an address that other hosts can reach")
	flags.addTo(cmd)
	return cmd
}

func checkForwardListen(listen string, public bool) error {
	host, port, err := net.SplitHostPort(listen)
	if err == nil {
		_, err = net.LookupPort("tcp", port)
	}
	switch {
	case err != nil || port == "":
		return fmt.Errorf("LISTEN: %q: not an address to listen on; write HOST:PORT, as 127.0.0.1:9000", listen)
	case !public && !isLoopback(host):
		return fmt.Errorf("LISTEN: %q: reaches beyond this host, and everyone there could call; write an address of loopback, as 127.0.0.1:9000, or add --public", listen)
	}
	return nil
}

// forwardCalls forwards connections until the command is to end.
func forwardCalls(cmd *cobra.Command, agent apiClient, listen, to string) error {
	ctx, cancel := context.WithCancel(cmd.Context())
	defer cancel()
	if to != httpapi.CallMaster {
		var members []httpapi.Member
		if _, err := agent.ask(ctx, httpapi.PathMembers, &members); err != nil {
			return err
		}
		if !slices.ContainsFunc(members, func(m httpapi.Member) bool { return m.NodeID == to }) {
			var ids []string
			for _, m := range members {
				ids = append(ids, cell(m.NodeID))
			}
			return fmt.Errorf("NODE: %q: no member of the cluster; write master, or one of %s", to, strings.Join(ids, ", "))
		}
	}
	// A wrong token, and an agent that is not there, show at once.
	first, err := agent.connect(ctx, to)
	if err != nil {
		return err
	}
	first.Close()
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return fmt.Errorf("LISTEN: %q: %w; name an address of this host and a free port", listen, err)
	}
	fmt.Fprintf(cmd.OutOrStdout(), "calls to %s go to %s\n", l.Addr(), cell(to))
	var serving sync.WaitGroup
	defer serving.Wait()
	defer cancel()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	for {
		c, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("LISTEN: %q: %w", listen, err)
		}
		serving.Go(func() {
			defer c.Close()
			if err := agent.relay(ctx, to, c); err != nil && ctx.Err() == nil {
				complain(cmd.ErrOrStderr(), err)
			}
		})
	}
}

// relay carries one connection.
func (a apiClient) relay(ctx context.Context, to string, c net.Conn) error {
	other, err := a.connect(ctx, to)
	if err != nil {
		return err
	}
	closeBoth := sync.OnceFunc(func() {
		c.Close()
		other.Close()
	})
	defer context.AfterFunc(ctx, closeBoth)()
	var copying sync.WaitGroup
	for _, way := range []struct {
		to   io.Writer
		from io.Reader
	}{{other, c}, {c, other}} {
		copying.Go(func() {
			_, _ = io.Copy(way.to, way.from) // whatever ends one way ends the connection
			closeBoth()
		})
	}
	copying.Wait()
	return nil
}

// connect opens a connection of gRPC by an agent. The caller closes it.
func (a apiClient) connect(ctx context.Context, to string) (io.ReadWriteCloser, error) {
	ctx, cancel := context.WithCancel(ctx)
	late := time.AfterFunc(askTimeout, cancel)
	response, err := a.openWith(ctx, http.MethodPost, httpapi.PathCallConnect+"?"+url.Values{"to": {to}}.Encode(), nil,
		http.Header{"Connection": {"Upgrade"}, "Upgrade": {httpapi.CallProtocol}})
	if err != nil {
		cancel()
		return nil, err
	}
	if response.StatusCode != http.StatusSwitchingProtocols {
		defer cancel()
		defer response.Body.Close()
		body, _ := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
		return nil, a.refused(response, httpapi.PathCallConnect, body)
	}
	conn, ok := response.Body.(io.ReadWriteCloser)
	if !late.Stop() || !ok {
		cancel()
		response.Body.Close()
		return nil, errors.New("the agent took too long to open a connection")
	}
	return &agentConn{conn, cancel}, nil
}

// agentConn is a connection to an agent, with the context of the request that has opened it.
type agentConn struct {
	io.ReadWriteCloser
	cancel context.CancelFunc
}

func (c *agentConn) Close() error {
	defer c.cancel()
	return c.ReadWriteCloser.Close()
}
