// Command load marks messages as read without end. Its clients spread calls over all addresses and
// retry UNAVAILABLE. It prints the number of calls each second, and every call that failed despite the
// retries.
//
//	load TARGET    with a bearer token in the environment variable TOKEN
package main

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/emptypb"
)

const (
	clients = 8
	pause   = 10 * time.Millisecond
	method  = "/markread.v1.MarkReadService/MarkRead"
	config  = `{"loadBalancingConfig": [{"round_robin": {}}], "methodConfig": [{"name": [{}], "timeout": "10s", "retryPolicy": {
		"maxAttempts": 5, "initialBackoff": "0.1s", "maxBackoff": "1s", "backoffMultiplier": 2,
		"retryableStatusCodes": ["UNAVAILABLE"]}}]}`
)

var (
	calls            [clients]atomic.Int64
	attempts, failed atomic.Int64
)

func main() {
	if len(os.Args) != 2 || os.Getenv("TOKEN") == "" {
		fmt.Fprintln(os.Stderr, "usage: TOKEN=… load TARGET")
		os.Exit(2)
	}
	for client := range clients {
		// Each client has its own connection, since a Service of Kubernetes balances connections.
		connection, err := grpc.NewClient(os.Args[1], grpc.WithDefaultServiceConfig(config),
			grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithStatsHandler(counter{}))
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		go mark(connection, client)
	}
	for range time.Tick(time.Second) {
		report()
	}
}

// report prints the number of calls that have ended, of all clients and of the one with the fewest, and
// the number of calls that were sent, including retries and calls in flight.
func report() {
	sum, each := calls[0].Load(), calls[0].Load()
	for client := 1; client < clients; client++ {
		ended := calls[client].Load()
		sum, each = sum+ended, min(each, ended)
	}
	fmt.Printf("calls=%d each=%d attempts=%d failed=%d\n", sum, each, attempts.Load(), failed.Load())
}

// mark advances one cursor with each call.
func mark(connection *grpc.ClientConn, client int) {
	ctx := metadata.AppendToOutgoingContext(context.Background(), "authorization", "Bearer "+os.Getenv("TOKEN"))
	for id := uint64(1); ; id++ {
		if err := connection.Invoke(ctx, method, request(id, uint64(client+1)), &emptypb.Empty{}); err != nil {
			fmt.Printf("%s client %d: %v\n", time.Now().Format(time.TimeOnly), client, err)
			failed.Add(1)
		}
		calls[client].Add(1)
		time.Sleep(pause)
	}
}

// request encodes a MarkReadRequest, whose two numbers need no generated code.
func request(lastReadEventID, recipientID uint64) *emptypb.Empty {
	fields := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), lastReadEventID)
	fields = protowire.AppendVarint(protowire.AppendTag(fields, 2, protowire.VarintType), recipientID)
	message := &emptypb.Empty{}
	message.ProtoReflect().SetUnknown(fields)
	return message
}

// counter counts the calls that were sent, retries included.
type counter struct{}

func (counter) HandleRPC(_ context.Context, event stats.RPCStats) {
	if _, began := event.(*stats.Begin); began {
		attempts.Add(1)
	}
}

func (counter) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (counter) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (counter) HandleConn(context.Context, stats.ConnStats)                       {}
