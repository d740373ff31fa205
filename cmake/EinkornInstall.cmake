# The CMake package, the command, the data and what the command writes for shells and man.

include(CMakePackageConfigHelpers)

set_target_properties(einkorn PROPERTIES INSTALL_RPATH "$ORIGIN;${TORCH_INSTALL_PREFIX}/lib")
install(TARGETS einkorn EXPORT einkorn_targets COMPONENT library FILE_SET HEADERS)
install(TARGETS einkorn_command COMPONENT library)
install(EXPORT einkorn_targets NAMESPACE einkorn:: FILE einkornTargets.cmake
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/einkorn COMPONENT library)
configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/einkornConfig.cmake.in ${PROJECT_BINARY_DIR}/einkornConfig.cmake
  INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/einkorn)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/einkornConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/einkornConfig.cmake ${PROJECT_BINARY_DIR}/einkornConfigVersion.cmake
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/einkorn COMPONENT library)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/data/ DESTINATION ${CMAKE_INSTALL_DATADIR}/einkorn/data COMPONENT library)

set(written ${PROJECT_BINARY_DIR}/written)
add_custom_command(
  OUTPUT ${written}/einkorn.1 ${written}/einkorn.bash ${written}/_einkorn ${written}/einkorn.fish
  COMMAND ${CMAKE_COMMAND} -E make_directory ${written}
  COMMAND einkorn_command man > ${written}/einkorn.1
  COMMAND einkorn_command completion bash > ${written}/einkorn.bash
  COMMAND einkorn_command completion zsh > ${written}/_einkorn
  COMMAND einkorn_command completion fish > ${written}/einkorn.fish
  DEPENDS einkorn_command VERBATIM)
add_custom_target(einkorn_written ALL DEPENDS ${written}/einkorn.1)
install(FILES ${written}/einkorn.1 DESTINATION ${CMAKE_INSTALL_MANDIR}/man1 COMPONENT library)
install(FILES ${written}/einkorn.bash DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions RENAME einkorn COMPONENT library)
install(FILES ${written}/_einkorn DESTINATION ${CMAKE_INSTALL_DATADIR}/zsh/site-functions COMPONENT library)
install(FILES ${written}/einkorn.fish DESTINATION ${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d COMPONENT library)
