# mocl.bash - completion of mocl's tools, recipes, options and their keys. The program itself says what there is, so that the
# words are never older than it is.

_mocl_recipes() {
    local dir IFS=:
    for dir in $(mocl --env 2>/dev/null | sed -n 's/^recipes *//p'); do
        [ -d "$dir" ] && ls "$dir" 2>/dev/null | sed -n 's/\.lua$//p'
    done
}

_mocl_tools() { mocl --help 2>/dev/null | sed -n 's/^The tools \(.*\) stand in place of a script\.$/\1/p' | tr -d ',' | sed 's/ and / /'; }

# the keys of a tool or a recipe, with their '='; those that have a choice list it behind
_mocl_keys() { mocl "$1" --help 2>/dev/null | sed -n 's/^  \([a-z_][A-Za-z0-9_.]*\)  *\(string\|strings\|number\|numbers\|integer\|integers\|boolean\) .*/\1=/p'; }
_mocl_choices() { mocl "$1" --help 2>/dev/null | sed -n "s/^  $2  .*(\([a-z0-9_|]*\))\( \[.*\)\{0,1\}$/\1/p" | tr '|' ' '; }

_mocl() {
    local cur=${COMP_WORDS[COMP_CWORD]} name= i key
    COMPREPLY=()
    # '=' divides words: the one before it is the key
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${COMP_WORDS[i]} in
        -e | -l) ((i++)) ;;
        -*) ;;
        *) name=${COMP_WORDS[i]}; break ;;
        esac
    done
    if [ -z "$name" ]; then
        case $cur in
        -*) COMPREPLY=($(compgen -W '-e -i -l -v -E -W --help --version --env' -- "$cur")) ;;
        *) COMPREPLY=($(compgen -W "$(_mocl_tools) $(_mocl_recipes)" -- "$cur") $(compgen -f -X '!*.lua' -- "$cur") $(compgen -d -- "$cur")) ;;
        esac
        return
    fi
    [ "$cur" = = ] && cur=
    key=${COMP_WORDS[COMP_CWORD - 1]}
    [ "$key" = = ] && key=${COMP_WORDS[COMP_CWORD - 2]} || { [ "${COMP_WORDS[COMP_CWORD]}" = = ] || key=; }
    if [ -n "$key" ] && [ "$key" != "$name" ]; then
        COMPREPLY=($(compgen -W "$(_mocl_choices "$name" "$key")" -- "$cur"))
        [ ${#COMPREPLY[@]} -gt 0 ] || COMPREPLY=($(compgen -f -- "$cur"))
        return
    fi
    COMPREPLY=($(compgen -W "--help --print-config $(_mocl_keys "$name")" -- "$cur") $(compgen -f -- "$cur"))
    [[ ${COMPREPLY[0]} == *= ]] && compopt -o nospace 2>/dev/null
    return 0
}

complete -o filenames -F _mocl mocl
