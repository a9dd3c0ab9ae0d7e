// A gRPC client with client-side health checking (gRFC A17), as applications configure it. It connects to the
// address in its first argument, and prints a line for each state of its channel and for each call that it
// makes, until its input ends.
package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/health"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
)

const config = `{
	"loadBalancingConfig": [{"round_robin": {}}],
	"healthCheckConfig": {"serviceName": "markread.v1.MarkReadService"}
}`

func main() {
	channel, err := grpc.Dial(os.Args[1],
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(config))
	if err != nil {
		fmt.Println("dial", err)
		os.Exit(1)
	}
	channel.Connect()
	go func() {
		state := channel.GetState()
		for {
			fmt.Println("state", state)
			channel.WaitForStateChange(context.Background(), state)
			state = channel.GetState()
		}
	}()
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		fmt.Println("call", call(channel))
	}
}

// Asks for a read state without parameters: INVALID_ARGUMENT is the server's own answer, UNAVAILABLE the
// channel's, if it sends no calls to an unhealthy server.
func call(channel *grpc.ClientConn) codes.Code {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "x-user-id", "2244994945")
	method := "/markread.v1.MarkReadService/GetReadState"
	return status.Code(channel.Invoke(ctx, method, &emptypb.Empty{}, &emptypb.Empty{}))
}
