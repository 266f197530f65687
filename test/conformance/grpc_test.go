package conformance

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/weir-dev/weir/sidecar/ruleset"
	"github.com/weir-dev/weir/test/child"
)

const (
	interopClient = "google.golang.org/grpc/interop/client"
	interopServer = "google.golang.org/grpc/interop/server"
)

// interopCases are what grpc-go's own interop_test.sh runs: all that need no
// cloud, but for pick_first_unary, which needs a server that says its name.
var interopCases = []string{
	"empty_unary", "large_unary", "client_streaming", "server_streaming", "ping_pong", "empty_stream",
	"timeout_on_sleeping_server", "cancel_after_begin", "cancel_after_first_response",
	"status_code_and_message", "special_status_message", "custom_metadata",
	"unimplemented_method", "unimplemented_service",
	"orca_per_rpc", "orca_oob", "rpc_soak", "channel_soak",
}

// gRPC's own client and server, unmodified, as programs.
func TestGRPCInterop(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	client := program(t, ".", interopClient)
	for _, w := range append([]way{direct, directTLS}, ways...) { // direct, or a case may fail for its own reasons
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			p := w.open(t, s, w, startInteropServer(t, w))
			for _, name := range interopCases {
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					runInteropClient(t, client, p, name)
				})
			}
		})
	}
}

// startInteropServer starts the server and waits until it accepts.
func startInteropServer(t *testing.T, w way) net.Addr {
	t.Helper()
	free := w.listen(t)
	addr := free.Addr()
	_ = free.Close()
	arguments := []string{"--port", strconv.Itoa(addr.(*net.TCPAddr).Port)}
	if w.tls {
		arguments = append(arguments, "--use_tls",
			"--tls_cert_file", file(t, "tls.crt", upstreamIdentity().certificate), "--tls_key_file", file(t, "tls.key", upstreamIdentity().key))
	}
	command := exec.Command(program(t, ".", interopServer), arguments...)
	var said bytes.Buffer
	command.Stdout, command.Stderr = &said, &said
	server, err := child.Start(command)
	if err != nil {
		t.Fatalf("starting the interop server: %v", err)
	}
	t.Cleanup(func() {
		server.Kill()
		if t.Failed() {
			t.Logf("the interop server said:\n%s", &said)
		}
	})
	for end := time.Now().Add(patience); time.Now().Before(end); <-time.After(5 * time.Millisecond) {
		c, err := net.Dial("tcp", addr.String())
		if err == nil {
			_ = c.Close()
			return addr
		}
		select {
		case <-server.Done():
			t.Fatalf("the interop server ended: %v", server.Err())
		default:
		}
	}
	t.Fatal("waited in vain until the interop server accepts")
	return nil
}

// runInteropClient runs one case; it ends with 0 when it passes.
func runInteropClient(t *testing.T, client string, p path, name string) {
	t.Helper()
	host, port, _ := net.SplitHostPort(p.addr)
	arguments := []string{
		"--test_case", name, "--server_host", host, "--server_port", port,
		"--additional_metadata", "x-user-id:" + name,
		"--service_config_json", `{"loadBalancingConfig": [{"test_backend_metrics_load_balancer": {}}]}`,
		// Of a machine under load: no more than that time is no promise here.
		"--soak_per_iteration_max_acceptable_latency_ms", "60000", "--soak_overall_timeout_seconds", "60",
	}
	if p.roots != nil {
		arguments = append(arguments, "--use_tls", "--use_test_ca", "--ca_file", file(t, "ca.crt", p.roots), "--server_host_override", upstreamName)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	command := exec.CommandContext(ctx, client, arguments...)
	command.Env = append(command.Environ(), "GRPC_GO_LOG_SEVERITY_LEVEL=info")
	if out, err := command.CombinedOutput(); err != nil {
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		t.Errorf("%v; its last words:\n%s", err, strings.Join(lines[max(0, len(lines)-15):], "\n"))
	}
}

// dialGRPC is a client of the path; user names it.
func dialGRPC(t *testing.T, p path, user string) testpb.TestServiceClient {
	t.Helper()
	transport := insecure.NewCredentials()
	if p.roots != nil {
		transport = credentials.NewTLS(p.client())
	}
	named := metadata.Pairs("x-user-id", user)
	c, err := grpc.NewClient("passthrough:///"+p.addr, grpc.WithTransportCredentials(transport),
		grpc.WithAuthority(upstreamName),
		grpc.WithUnaryInterceptor(func(ctx context.Context, method string, request, reply any, c *grpc.ClientConn, call grpc.UnaryInvoker, options ...grpc.CallOption) error {
			return call(metadata.NewOutgoingContext(ctx, named), method, request, reply, c, options...)
		}),
		grpc.WithStreamInterceptor(func(ctx context.Context, d *grpc.StreamDesc, c *grpc.ClientConn, method string, call grpc.Streamer, options ...grpc.CallOption) (grpc.ClientStream, error) {
			return call(metadata.NewOutgoingContext(ctx, named), d, c, method, options...)
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return testpb.NewTestServiceClient(c)
}

// serveGRPC serves in this process.
func serveGRPC(t *testing.T, w way, service testpb.TestServiceServer) net.Addr {
	t.Helper()
	var options []grpc.ServerOption
	if w.tls {
		options = append(options, grpc.Creds(credentials.NewTLS(upstreamIdentity().server())))
	}
	server := grpc.NewServer(options...)
	testpb.RegisterTestServiceServer(server, service)
	l := w.listen(t)
	go func() { _ = server.Serve(l) }() // until Stop
	t.Cleanup(server.Stop)
	return l.Addr()
}

// A call beyond the limit ends with RESOURCE_EXHAUSTED and says when to come
// back, in the way that gRPC's own library reads.
func TestGRPCLimited(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	for _, direction := range []ruleset.Direction{ruleset.Inbound, ruleset.Outbound} {
		t.Run(string(direction), func(t *testing.T) {
			t.Parallel()
			l := direct.listen(t)
			s.serve(t, direction, l, serveGRPC(t, direct, interop.NewTestServer()), nil, policy(direction, 2))
			client := dialGRPC(t, direct.path(l.Addr()), "limited "+string(direction))
			for i := range 2 {
				if _, err := client.EmptyCall(t.Context(), &testpb.Empty{}); err != nil {
					t.Fatalf("call %d within the limit: %v", i+1, err)
				}
			}
			_, err := client.EmptyCall(t.Context(), &testpb.Empty{})
			expectExhausted(t, "a unary call", err)
			stream, err := client.FullDuplexCall(t.Context())
			if err == nil {
				_, err = stream.Recv()
			}
			expectExhausted(t, "a stream", err)
		})
	}
}

func expectExhausted(t *testing.T, what string, err error) {
	t.Helper()
	told, ok := status.FromError(err)
	if !ok || told.Code() != codes.ResourceExhausted {
		t.Errorf("%s beyond the limit: %v, want ResourceExhausted", what, err)
		return
	}
	for _, detail := range told.Details() {
		if retry, ok := detail.(*errdetails.RetryInfo); ok {
			if wait := retry.GetRetryDelay().AsDuration(); wait <= 0 || wait > time.Hour {
				t.Errorf("%s: RetryInfo says %v, want at most the window", what, wait)
			}
			return
		}
	}
	t.Errorf("%s: the details %v have no RetryInfo", what, told.Details())
}

// hangsUp ends calls with an error, whatever the client has yet to say: a stream
// after its first message, and one of its own when that asks for it.
type hangsUp struct {
	testpb.UnimplementedTestServiceServer
}

var errHeardEnough = status.Error(codes.FailedPrecondition, "heard enough")

func (hangsUp) EmptyCall(context.Context, *testpb.Empty) (*testpb.Empty, error) {
	return nil, errHeardEnough
}

func (hangsUp) FullDuplexCall(stream grpc.BidiStreamingServer[testpb.StreamingOutputCallRequest, testpb.StreamingOutputCallResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	if len(first.GetResponseParameters()) > 0 {
		if err := stream.Send(&testpb.StreamingOutputCallResponse{}); err != nil {
			return err
		}
	}
	return errHeardEnough
}

func expectHeardEnough(t *testing.T, what string, err error) {
	t.Helper()
	if status.Code(err) != codes.FailedPrecondition || status.Convert(err).Message() != "heard enough" {
		t.Fatalf("%s ended with %v, want the server's FailedPrecondition", what, err)
	}
}

// A server may end a call that the client has not ended, which then learns of
// that at once.
func TestGRPCServerEndsTheStream(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	for _, w := range ways {
		for name, first := range map[string]*testpb.StreamingOutputCallRequest{
			"with nothing else": {},
			"after a message":   {ResponseParameters: []*testpb.ResponseParameters{{Size: 1}}},
		} {
			t.Run(w.name+" "+name, func(t *testing.T) {
				t.Parallel()
				client := dialGRPC(t, w.open(t, s, w, serveGRPC(t, w, hangsUp{})), "alice")
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				stream, err := client.FullDuplexCall(ctx)
				if err != nil {
					t.Fatal(err)
				}
				if err := stream.Send(first); err != nil {
					t.Fatal(err)
				}
				for range first.GetResponseParameters() {
					if _, err := stream.Recv(); err != nil {
						t.Fatalf("the server's message: %v", err)
					}
				}
				_, err = stream.Recv()
				expectHeardEnough(t, "the stream", err)
			})
		}
	}
}

// An answer that is trailers only stays one: as a head and an end apart from it,
// it has no status to gRPC's library.
func TestGRPCTrailersOnly(t *testing.T) {
	t.Parallel()
	const calls = 1000 // to meet what happens now and then
	s := newStore(t)
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			client := dialGRPC(t, w.open(t, s, w, serveGRPC(t, w, hangsUp{})), "alice")
			for i := range calls {
				_, err := client.EmptyCall(t.Context(), &testpb.Empty{})
				expectHeardEnough(t, fmt.Sprintf("call %d", i), err)
			}
		})
	}
}
