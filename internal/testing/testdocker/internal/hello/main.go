// Command hello is for the tests of package testdocker.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Println("hello", os.Getenv("WHO"), os.Args[1:])
	os.Exit(3)
}
