// Prints what happens in the queue orders, from the oldest event that is kept, until SIGTERM or Ctrl-C.
package main

import (
	"cmp"
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"

	"toril"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	client := toril.NewClient(os.Getenv("TORIL"), os.Getenv("TOKEN"))
	orders := toril.NewQueue[any, any](client, cmp.Or(os.Getenv("QUEUE"), "orders"))

	for event, err := range orders.Events(ctx, "0") {
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			log.Fatal(err)
		}
		fmt.Println(event.ID, event.Name, event.JobID)
	}
}
