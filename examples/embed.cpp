// embed.cpp - mocl in a C++ program: the context has an owner, errors are exceptions of the program's own, and a lambda is a
// function of scripts.
//
//     c++ -std=c++17 embed.cpp $(pkg-config --cflags --libs mocl)

#include <mocl.h>

#include <cmath>
#include <functional>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

class Context {
public:
    Context() : ctx_(mocl_open(nullptr), mocl_close) {
        if (!ctx_) throw std::runtime_error("no context");
    }

    void run(const std::string &code) { check(mocl_dostring(ctx_.get(), code.c_str(), "=script")); }

    std::vector<double> numbers(const char *name) {
        mocl_value v{};
        check(mocl_get_value(ctx_.get(), name, &v));
        if (v.type != MOCL_NUMBERS) throw std::runtime_error(std::string(name) + " is no list of numbers");
        return {v.numbers, v.numbers + v.n};
    }

    // f must outlive the context
    void define(const char *name, std::function<double(double)> &f) { check(mocl_set_function(ctx_.get(), name, call, &f)); }

private:
    static int call(void *data, const mocl_value *args, int n_args, mocl_value *result) noexcept {
        if (n_args != 1 || args[0].type != MOCL_NUMBER) {
            result->string = "one number expected";
            return MOCL_FAILED;
        }
        try { // an exception must not pass through Lua
            result->number = (*static_cast<std::function<double(double)> *>(data))(args[0].number);
        } catch (const std::exception &) {
            result->string = "the function of the host has failed";
            return MOCL_FAILED;
        }
        result->type = MOCL_NUMBER;
        return MOCL_DONE;
    }

    void check(int result) {
        if (result != MOCL_DONE) throw std::runtime_error(mocl_error(ctx_.get()));
    }

    std::unique_ptr<mocl_ctx, void (*)(mocl_ctx *)> ctx_;
};

static std::string first_line(const std::string &text) { return text.substr(0, text.find('\n')); }

int main() {
    std::function<double(double)> angle = [](double degrees) {
        if (degrees < 0) throw std::domain_error("negative");
        return degrees * std::acos(-1.0) / 180;
    };
    try {
        Context lua;
        lua.define("radians", angle);
        lua.run("local minnorm = require 'mocl.minnorm'\n"
                "weights = minnorm.solve{{4, 4 * math.cos(radians(120))}, {4 * math.cos(radians(120)), 4}}");
        for (double w : lua.numbers("weights")) std::cout << "weight " << w << '\n';
        try {
            lua.run("radians(-1)");
        } catch (const std::runtime_error &e) {
            std::cout << "caught: " << first_line(e.what()) << '\n';
        }
    } catch (const std::exception &e) {
        std::cerr << e.what() << '\n';
        return 1;
    }
}
