// A gRPC client that spreads its calls over several servers, and retries UNAVAILABLE or not, as its service config
// says. Its first argument is "retries" or "once", the second one the servers' addresses, with commas; each further one
// is the authorization of a reader, who marks message after message until the input ends. Then it prints a line of
// JSON: the calls that were OK, those that failed by status, and each reader's last acknowledged message.
package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"
)

const (
	recipient = 3805104374
	method    = "/markread.v1.MarkReadService/MarkRead"

	once    = `{"loadBalancingConfig": [{"round_robin": {}}]}`
	retries = `{
		"loadBalancingConfig": [{"round_robin": {}}],
		"methodConfig": [{
			"name": [{"service": "markread.v1.MarkReadService"}],
			"retryPolicy": {
				"maxAttempts": 5,
				"initialBackoff": "0.1s",
				"maxBackoff": "1s",
				"backoffMultiplier": 2,
				"retryableStatusCodes": ["UNAVAILABLE"]
			}
		}]
	}`
)

type result struct {
	Ok     int            `json:"ok"`
	Failed map[string]int `json:"failed"`
	Last   []uint64       `json:"last"`
}

// A codec of messages that are bytes already.
type raw struct{}

func (raw) Name() string                        { return "proto" }
func (raw) Marshal(message any) ([]byte, error) { return *message.(*[]byte), nil }
func (raw) Unmarshal(bytes []byte, message any) error {
	*message.(*[]byte) = append([]byte(nil), bytes...)
	return nil
}

// A MarkReadRequest: last_read_event_id is field 1, recipient_id field 2.
func request(message uint64) []byte {
	bytes := binary.AppendUvarint([]byte{1 << 3}, message)
	return binary.AppendUvarint(append(bytes, 2<<3), recipient)
}

func main() {
	config := once
	if os.Args[1] == "retries" {
		config = retries
	}
	var servers resolver.State
	for _, address := range strings.Split(os.Args[2], ",") {
		servers.Addresses = append(servers.Addresses, resolver.Address{Addr: address})
	}
	resolver := manual.NewBuilderWithScheme("servers")
	resolver.InitialState(servers)
	channel, err := grpc.Dial(resolver.Scheme()+":///markread",
		grpc.WithResolvers(resolver),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(config),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(raw{})))
	if err != nil {
		fmt.Println("dial", err)
		os.Exit(1)
	}
	ended := make(chan struct{})
	readers := os.Args[3:]
	all := result{Failed: map[string]int{}, Last: make([]uint64, len(readers))}
	var lock sync.Mutex
	var running sync.WaitGroup
	for index, authorization := range readers {
		running.Add(1)
		go func(index int, authorization string) {
			defer running.Done()
			for message := uint64(1); ; message++ {
				select {
				case <-ended:
					return
				default:
				}
				err := mark(channel, authorization, message)
				lock.Lock()
				if err == nil {
					all.Ok++
					all.Last[index] = message
				} else {
					all.Failed[status.Convert(err).String()]++
				}
				lock.Unlock()
			}
		}(index, authorization)
	}
	io.Copy(io.Discard, os.Stdin)
	close(ended)
	running.Wait()
	json.NewEncoder(os.Stdout).Encode(all)
}

func mark(channel *grpc.ClientConn, authorization string, message uint64) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", authorization)
	bytes, answer := request(message), []byte(nil)
	return channel.Invoke(ctx, method, &bytes, &answer)
}
